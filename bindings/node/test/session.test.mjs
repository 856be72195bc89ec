// Runs: promises, cancelling, deadlines, closing, workers, memory.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { GraphBuilder, Runtime, heapBytes } from '@libdeepseek/node';
import { endless, failure, loopInputs, looping, runtime, turns, unary } from './support.mjs';

const x = { shape: [2], data: Float32Array.of(1, 2) };

test('a run does not block the event loop', async () => {
  const session = (await looping()).session();
  const controller = new AbortController();
  const run = session.run(loopInputs(endless), { signal: controller.signal });
  await turns(5);
  controller.abort();
  await assert.rejects(run, failure('CANCELLED'));
});

test('overlapping runs of one session take turns and agree', async () => {
  const session = (await unary('Neg', 'f32', [2])).session();
  const runs = Array.from({ length: 50 }, (_, i) =>
    session.run({ x: { shape: [2], data: Float32Array.of(i, 1) } }));
  const outputs = await Promise.all(runs);
  outputs.forEach(({ y }, i) => assert.deepEqual([...y.data], [-i, -1]));
});

test('an AbortSignal ends a run, with its reason as the cause', async () => {
  const session = (await looping()).session();
  const inputs = loopInputs(endless);
  const controller = new AbortController();
  const run = session.run(inputs, { signal: controller.signal });
  const reason = new Error('enough');
  await turns(1);
  controller.abort(reason);
  await assert.rejects(run, (e) => failure('CANCELLED')(e) && e.cause === reason);
  const aborted = { signal: AbortSignal.abort('early') };
  await assert.rejects(session.run(inputs, aborted), (e) => failure('CANCELLED')(e) && e.cause === 'early');
  assert.throws(() => session.runSync(inputs, aborted), failure('CANCELLED'));
});

test('a signal that outlives many runs keeps no listeners', async () => {
  const session = (await unary('Neg', 'f32', [2])).session();
  const { signal } = new AbortController();
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = (...args) => (listeners++, addEventListener.apply(signal, args));
  signal.removeEventListener = (...args) => (listeners--, removeEventListener.apply(signal, args));
  for (let i = 0; i < 20; i++) await session.run({ x }, { signal });
  await assert.rejects(session.run({}, { signal }), failure('INVALID_ARGUMENT'));
  assert.equal(listeners, 0);
});

test('a deadline ends a run', async () => {
  const session = (await looping()).session();
  const inputs = loopInputs(endless);
  await assert.rejects(session.run(inputs, { timeoutMs: 5 }), failure('TIMEOUT'));
  assert.throws(() => session.runSync(inputs, { timeoutMs: 5 }), failure('TIMEOUT'));
  const small = (await unary('Neg', 'f32', [2])).session();
  assert.deepEqual([...(await small.run({ x }, { timeoutMs: 1e15 })).y.data], [-1, -2]);
});

test('wrong options are named', async () => {
  const session = (await unary('Neg', 'f32', [2])).session();
  const rows = [
    [{ timeoutMs: -1 }, 'timeoutMs'], [{ timeoutMs: NaN }, 'timeoutMs'],
    [{ timeoutMs: Infinity }, 'timeoutMs'], [{ timeoutMs: '5' }, 'timeoutMs'],
    [{ ragged: 1 }, 'options'], [{ signal: {} }, 'signal'], [{ signal: 3 }, 'options'], [7, 'options'],
  ];
  for (const [options, text] of rows) {
    await assert.rejects(session.run({ x }, options), failure('INVALID_ARGUMENT', text));
  }
});

test('cancel ends what is under way, not what comes after', async () => {
  const session = (await looping()).session();
  const inputs = loopInputs(endless);
  for (const wait of [1, 0]) {
    const runs = [session.run(inputs), session.run(inputs), session.profile(inputs)];
    await turns(wait);
    session.cancel();
    for (const { reason } of await Promise.allSettled(runs)) assert.ok(failure('CANCELLED')(reason));
  }
  assert.deepEqual([...(await session.run(loopInputs(1n))).y.data], [-1, -2]);
});

test('close during a run is safe; a closed session says so', async () => {
  const own = new Runtime({ threads: 1 });
  const session = (await looping(own)).session();
  const inputs = loopInputs(endless);
  const run = session.run(inputs);
  while (own.reservedBytes === 0) await turns(1);
  session.close();
  await assert.rejects(run, failure('CANCELLED'));
  session.close();
  await assert.rejects(session.run(inputs), failure('INVALID_STATE', 'session'));
  await assert.rejects(session.profile(inputs), failure('INVALID_STATE', 'session'));
  await assert.rejects(session.runRagged({}), failure('INVALID_STATE', 'session'));
  assert.throws(() => session.runRaggedSync({}), failure('INVALID_STATE', 'session'));
  assert.throws(() => session.runSync(inputs), failure('INVALID_STATE', 'session'));
  assert.throws(() => session.cancel(), failure('INVALID_STATE'));
  assert.throws(() => session.trim(), failure('INVALID_STATE'));
  assert.throws(() => session.observedBytes, failure('INVALID_STATE'));
});

test('what was made from an object goes on when it is closed', async () => {
  const own = new Runtime({ threads: 1 });
  own.close();
  assert.throws(() => own.threads, failure('INVALID_STATE', 'runtime'));
  const model = await unary('Neg', 'f32', [2]);
  const session = model.session();
  model.close();
  for (const get of ['inputs', 'outputs', 'memoryFormula']) {
    assert.throws(() => model[get], failure('INVALID_STATE', 'model'));
  }
  for (const call of ['session', 'summary', 'saveSync', 'planMemory', 'planMemoryForShapes', 'checkRagged', 'planMemoryForLengths']) {
    assert.throws(() => model[call]({}), failure('INVALID_STATE', 'model'));
  }
  assert.deepEqual([...(await session.run({ x })).y.data], [-1, -2]);
});

test('profile gives a trace', async () => {
  const session = (await unary('Neg', 'f32', [2], { name: 'negate' })).session();
  const { outputs, trace, json, html } = await session.profile({ x });
  assert.deepEqual([...outputs.y.data], [-1, -2]);
  const { traceEvents } = JSON.parse(trace);
  assert.ok(traceEvents.some((event) => event.name === 'negate'));
  const { events, observed_bytes: observed } = JSON.parse(json);
  assert.ok(events.some(({ node, op }) => node === 'negate' && op === 'Neg'));
  assert.equal(observed, session.observedBytes);
  assert.ok(html.startsWith('<!DOCTYPE html>') && html.includes('negate'));
});

test('observed bytes and trim', async () => {
  const graph = new GraphBuilder();
  const a = graph.input('x', 'f32', [64, 64]);
  graph.output('y', graph.node('MatMul', [graph.node('MatMul', [a, a])[0], a])[0]);
  const model = await graph.build(runtime);
  const inputs = { x: { shape: [64, 64], data: new Float32Array(64 * 64) } };
  const session = model.session();
  await session.run(inputs);
  const planned = model.planMemory({}).plannedBytes;
  assert.ok(session.observedBytes > 0 && session.observedBytes <= planned);
  assert.ok(runtime.reservedBytes > 0);
  session.trim();
  await session.run(inputs);
});

test('a budget is kept', async () => {
  const tight = new Runtime({ threads: 1, memoryBudgetBytes: 1024 });
  const graph = new GraphBuilder();
  const a = graph.input('x', 'f32', [64, 64]);
  graph.output('y', graph.node('Neg', graph.node('Neg', [a]))[0]);
  const session = (await graph.build(tight)).session();
  const big = { x: { shape: [64, 64], data: new Float32Array(64 * 64) } };
  await assert.rejects(session.run(big), failure('BUDGET_EXCEEDED'));
});

test('a worker that is terminated ends its runs first', async () => {
  for (let i = 0; i < 3; i++) {
    const worker = new Worker(new URL('./endless.worker.mjs', import.meta.url));
    await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
    await worker.terminate();
  }
});

test('runs leak nothing', async () => {
  const session = (await unary('Neg', 'f32', ['n'])).session();
  const data = new Float32Array(1 << 18);
  const loop = async (n) => {
    for (let i = 0; i < n; i++) {
      await session.run({ x: { shape: [data.length], data } });
      session.runSync({ x: { shape: [data.length], data } });
      await session.run({ x: { shape: [1], data } }).catch(() => {});
      if (i % 20 === 0) globalThis.gc();
    }
  };
  const memory = () => ({ ...process.memoryUsage(), heap: heapBytes() });
  // The collector frees arrays on threads of its own, which may take their time.
  const settles = async (good) => {
    for (let i = 0; i < 2000 && !good(memory()); i++) {
      globalThis.gc();
      await turns(5);
    }
    return good(memory());
  };
  await loop(100);
  for (let i = 0; i < 5; i++) globalThis.gc(), await turns(5);
  const before = memory();
  await loop(300);
  // 300 rounds make 600 outputs of 1 MiB.
  assert.ok(await settles((now) => now.arrayBuffers - before.arrayBuffers < 4 << 20), 'array buffers stay');
  assert.ok(await settles((now) => now.heap - before.heap < 4 << 20), 'tensors stay');
  assert.ok(await settles((now) => now.rss - before.rss < 48 << 20), `grew from ${before.rss >> 20} MiB`);
});
