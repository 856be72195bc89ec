// Sequences of different lengths, without padding.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GraphBuilder, Model } from '@libdeepseek/node';
import { encoder, endless, failure, loopLists, looping, runtime, turns } from './support.mjs';

const lengths = [4, 1, 7];
const tokens = lengths.map((n, s) => Array.from({ length: n }, (_, i) => 5 + ((3 * s + 7 * i) % 20)));
const i64 = (shape, numbers) => ({ shape, data: BigInt64Array.from(numbers, BigInt) });
const fill = (n, value) => Array(n).fill(value);
const names = ['last_hidden_state', 'sentence_embedding'];

const model = await Model.open(runtime, encoder);
const lists = () => ({
  input_ids: tokens.map((row) => i64([row.length], row)),
  token_type_ids: lengths.map((n) => i64([n], fill(n, 0))),
});
/** Each sequence by the plain run: batch 1, a mask of ones. */
const alone = await Promise.all(tokens.map((row) => {
  const shape = [1, row.length];
  return model.session().run({
    input_ids: i64(shape, row),
    token_type_ids: i64(shape, fill(row.length, 0)),
    attention_mask: i64(shape, fill(row.length, 1)),
  });
}));
const bits = ({ data }) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

function checkPacked(outputs) {
  assert.deepEqual(Object.keys(outputs), model.outputs.map(({ name }) => name));
  for (const name of names) {
    assert.equal(outputs[name].length, lengths.length);
    outputs[name].forEach((got, s) => {
      const want = alone[s][name];
      assert.deepEqual(got.shape, want.shape.slice(1));
      assert.ok(bits(got).equals(bits(want)), `${name} of sequence ${s} has other bits than alone`);
    });
  }
}

test('packed sequences have the bits that each has alone', async () => {
  model.checkRagged();
  const session = model.session();
  checkPacked(await session.runRagged(lists()));
  checkPacked(session.runRaggedSync(lists()));
  // Masks of ones may be given.
  const masks = lengths.map((n) => i64([n], fill(n, 1)));
  checkPacked(await session.runRagged({ ...lists(), attention_mask: masks }));
  masks[0].data[1] = 0n;
  const hiding = session.runRagged({ ...lists(), attention_mask: masks });
  await assert.rejects(hiding, failure('INVALID_ARGUMENT', "'attention_mask'"));
});

test('a padded batch runs without its padding', async () => {
  const [batch, longest] = [lengths.length, Math.max(...lengths)];
  const pad = (rows) => rows.flatMap((row) => [...row, ...fill(longest - row.length, 0)]);
  const shape = [batch, longest];
  const inputs = {
    input_ids: i64(shape, pad(tokens)),
    token_type_ids: i64(shape, fill(batch * longest, 0)),
    attention_mask: i64(shape, pad(lengths.map((n) => fill(n, 1)))),
  };
  const session = model.session();
  const options = { ragged: true };
  const { outputs: profiled, json } = await session.profile(inputs, options);
  assert.ok(json.includes('PackedAttention'));
  for (const outputs of [await session.run(inputs, options), session.runSync(inputs, options), profiled]) {
    const { shape: got, data } = outputs.last_hidden_state;
    assert.deepEqual(got.slice(0, 2), shape);
    const row = longest * got[2];
    lengths.forEach((n, s) => {
      const shown = data.slice(s * row, s * row + n * got[2]);
      assert.ok(bits({ data: shown }).equals(bits(alone[s].last_hidden_state)));
      assert.ok(data.slice(s * row + n * got[2], (s + 1) * row).every((v) => v === 0));
    });
  }
  // A mask with a hole is refused.
  inputs.attention_mask.data[0] = 0n;
  await assert.rejects(session.run(inputs, options), failure('INVALID_ARGUMENT', "'attention_mask'"));
});

test('contradictions and mistakes are named', async () => {
  const session = model.session();
  const wrong = lists();
  wrong.token_type_ids.reverse();
  const sides = ["'token_type_ids' has 7 rows", "'input_ids' has 4"];
  await assert.rejects(session.runRagged(wrong), failure('SHAPE_MISMATCH', ...sides));
  assert.throws(() => session.runRaggedSync(wrong), failure('SHAPE_MISMATCH', ...sides));
  const { input_ids } = lists();
  const rows = [
    [{ input_ids }, 'INVALID_ARGUMENT', "'token_type_ids' is missing"],
    [{ words: input_ids }, 'NOT_FOUND', "'words'"],
    [{ input_ids: input_ids[0] }, 'INVALID_ARGUMENT', "input 'input_ids' must be an array"],
    [{ input_ids: [input_ids[0], 3] }, 'INVALID_ARGUMENT', "input 'input_ids'[1]"],
    [{ ...lists(), input_ids: input_ids.map(({ shape }) => ({ shape, data: new Float32Array(shape[0]) })) },
      'DTYPE_MISMATCH', "'input_ids'"],
    [{ input_ids: [], token_type_ids: [] }, 'INVALID_ARGUMENT'],
    [undefined, 'INVALID_ARGUMENT', 'inputs'],
  ];
  for (const [inputs, status, ...texts] of rows) {
    await assert.rejects(session.runRagged(inputs), failure(status, ...texts));
    assert.throws(() => session.runRaggedSync(inputs), failure(status, ...texts));
  }
});

test('memory is known from the lengths', async () => {
  const one = model.planMemoryForLengths(lengths.slice(0, 1));
  const all = model.planMemoryForLengths(lengths);
  assert.ok(one.plannedBytes > 0 && one.plannedBytes < all.plannedBytes);
  const session = model.session();
  await session.runRagged(lists());
  assert.ok(session.observedBytes > 0 && session.observedBytes <= all.plannedBytes);
  assert.throws(() => model.planMemoryForLengths([3, 0]), failure('INVALID_ARGUMENT', 'sequence 1 is empty'));
  assert.throws(() => model.planMemoryForLengths([]), failure('INVALID_ARGUMENT'));
  assert.throws(() => model.planMemoryForLengths([1.5]), failure('INVALID_ARGUMENT', 'lengths', '1.5'));
  assert.throws(() => model.planMemoryForLengths(3), failure('INVALID_ARGUMENT', 'lengths'));
});

test('a model that mixes the rows of sequences says where', async () => {
  const graph = new GraphBuilder('mixer');
  const x = graph.input('x', 'f32', ['batch', 'seq', 2]);
  graph.output('y', graph.node('Softmax', [x], { attrs: 'axis = 1', name: 'over_tokens' })[0]);
  const mixer = await graph.build(runtime);
  const refusal = failure('UNSUPPORTED', 'over_tokens');
  assert.throws(() => mixer.checkRagged(), refusal);
  assert.throws(() => mixer.planMemoryForLengths([3]), refusal);
  const rows = { shape: [3, 2], data: new Float32Array(6) };
  await assert.rejects(mixer.session().runRagged({ x: [rows] }), refusal);
  const batch = { shape: [1, 3, 2], data: new Float32Array(6) };
  await assert.rejects(mixer.session().run({ x: batch }, { ragged: true }), refusal);
});

test('a ragged run does not block the event loop and ends when it should', async () => {
  const model = await looping();
  const session = model.session();
  const { y } = await session.runRagged(loopLists(2n));
  assert.deepEqual(y.map(({ shape, data }) => [shape, [...data]]), [[[2, 2], [-1, -2, -3, -4]], [[1, 2], [-5, -6]]]);

  const inputs = loopLists(endless);
  const controller = new AbortController();
  const run = session.runRagged(inputs, { signal: controller.signal });
  const reason = new Error('enough');
  await turns(5);
  controller.abort(reason);
  await assert.rejects(run, (e) => failure('CANCELLED')(e) && e.cause === reason);
  const aborted = { signal: AbortSignal.abort('early') };
  await assert.rejects(session.runRagged(inputs, aborted), (e) => failure('CANCELLED')(e) && e.cause === 'early');
  assert.throws(() => session.runRaggedSync(inputs, aborted), failure('CANCELLED'));

  await assert.rejects(session.runRagged(inputs, { timeoutMs: 5 }), failure('TIMEOUT'));
  assert.throws(() => session.runRaggedSync(inputs, { timeoutMs: 5 }), failure('TIMEOUT'));
  for (const wait of [1, 0]) {
    const cancelled = session.runRagged(inputs);
    await turns(wait);
    session.cancel();
    await assert.rejects(cancelled, failure('CANCELLED'));
  }
});

test('a ragged run keeps to the budget of its model', async () => {
  const tight = await Model.open(runtime, encoder, { memoryBudgetBytes: model.planMemoryForLengths([4]).plannedBytes });
  const session = tight.session();
  const given = (n) => ({
    input_ids: [{ shape: [n], data: new BigInt64Array(n).fill(5n) }],
    token_type_ids: [{ shape: [n], data: new BigInt64Array(n) }],
  });
  await session.runRagged(given(4));
  await assert.rejects(session.runRagged(given(7)), failure('BUDGET_EXCEEDED', 'memory_budget_bytes'));
});
