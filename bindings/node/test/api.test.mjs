// Everything else: the loader, statuses, runtimes, models, graphs, the embedder.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as esm from '@libdeepseek/node';
import { encoder, failure, repository, runtime, unary } from './support.mjs';

const { DeepseekError, Embedder, GraphBuilder, Model, Runtime, dtypes, statusCodes, version } = esm;
const require = createRequire(import.meta.url);

test('import and require give the same things', () => {
  const cjs = require('@libdeepseek/node');
  assert.deepEqual(Object.keys(cjs).sort(), Object.keys(esm).sort());
  for (const name of Object.keys(cjs)) assert.equal(cjs[name], esm[name]);
});

test('the version is that of the package', () => {
  assert.equal(version(), require('@libdeepseek/node/package.json').version);
});

test('every declaration exists', () => {
  const types = readFileSync(join(require.resolve('@libdeepseek/node'), '../index.d.ts'), 'utf8');
  const declared = [...types.matchAll(/^export declare (?:class|function) (\w+)/gm)].map((m) => m[1]);
  assert.deepEqual(declared.sort(), Object.keys(esm).sort());
});

test('statuses and element types', () => {
  const codes = statusCodes();
  assert.equal(codes.INVALID_ARGUMENT, 100);
  assert.equal(codes.POISONED, 902);
  assert.equal(new Set(Object.values(codes)).size, Object.keys(codes).length);
  assert.equal(dtypes().length, 24);
  try {
    new Runtime({ isa: 'mmx' });
    assert.fail();
  } catch (error) {
    assert.ok(error instanceof DeepseekError && error instanceof Error);
    assert.equal(error.code, codes[error.status]);
    assert.ok(error.stack.includes('api.test.mjs'));
  }
});

test('runtimes', () => {
  assert.equal(runtime.threads, 2);
  const levels = ['scalar', 'avx2', 'avxvnni', 'avx512', 'avx512vnni', 'avx512bf16', 'amx'];
  assert.ok(levels.includes(runtime.isa));
  assert.equal(new Runtime({ isa: 'scalar' }).isa, 'scalar');
  for (const options of [{ threads: 5000 }, { threads: -1 }, { threads: 1.5 }, { threads: '2' },
    { memoryBudgetBytes: -1 }, { memoryBudgetBytes: 0.5 }, { isa: 'mmx' }, { isa: 3 }, 4]) {
    assert.throws(() => new Runtime(options), failure('INVALID_ARGUMENT'), JSON.stringify(options));
  }
});

test('another object is no runtime', async () => {
  for (const wrong of [undefined, null, {}, 3, 'r', new GraphBuilder(), Runtime]) {
    await assert.rejects(Model.open(wrong, 'm.onnx'), failure('INVALID_ARGUMENT', 'runtime'));
    await assert.rejects(Embedder.open(wrong, 'dir'), failure('INVALID_ARGUMENT', 'runtime'));
    assert.throws(() => Model.openSync(wrong, 'm.onnx'), failure('INVALID_ARGUMENT', 'runtime'));
  }
  const closed = new Runtime();
  closed.close();
  await assert.rejects(Model.open(closed, 'm.onnx'), failure('INVALID_STATE', 'runtime'));
});

test('models that cannot be opened', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'deepseek-'));
  const broken = join(dir, 'broken.onnx');
  writeFileSync(broken, 'not a model');
  const rows = [
    [join(dir, 'missing.onnx'), 'IO', 'missing.onnx'],
    [broken, 'INVALID_FILE'],
    [join(dir, 'a.gguf'), 'IO'],
    [7, 'INVALID_ARGUMENT', 'path: failed to convert', 'Number', 'String'],
  ];
  for (const [path, status, ...texts] of rows) {
    await assert.rejects(Model.open(runtime, path), failure(status, ...texts));
    assert.throws(() => Model.openSync(runtime, path), failure(status, ...texts));
  }
  await assert.rejects(Model.fromOnnx(runtime, Buffer.from('junk')), failure('INVALID_FILE'));
  assert.throws(() => Model.fromOnnxSync(runtime, new Uint8Array(9).fill(255)), failure('INVALID_FILE'));
  await assert.rejects(Model.fromOnnx(runtime, 'text'), failure('INVALID_ARGUMENT', 'bytes'));
});

test('what a model says of itself', async () => {
  const graph = new GraphBuilder('sums');
  const x = graph.input('x', 'f32', ['batch', 3]);
  graph.bound('batch', 1, 8);
  const w = graph.constant('w', { shape: [3], data: Float32Array.of(1, 2, 3) });
  const [y] = graph.node('Add', [x, w], { name: 'sum' });
  assert.equal(y.type, 'f32[batch, 3]');
  graph.output('y', y);
  const model = await graph.build(runtime);
  assert.deepEqual(model.inputs, [{ name: 'x', type: 'f32[batch, 3]', dtype: 'f32', shape: ['batch', 3] }]);
  assert.equal(model.outputs[0].name, 'y');
  const summary = model.summary();
  assert.equal(summary.name, 'sums');
  assert.equal(summary.parameters, 3);
  assert.equal(summary.parameterBytes, 12);
  assert.deepEqual(summary.symbols, { batch: { min: 1, max: 8 } });
  assert.equal(summary.ops.Add.nodes, 1);
  assert.ok(model.memoryFormula.includes('batch'));

  // A saved model is the model.
  const dir = mkdtempSync(join(tmpdir(), 'deepseek-'));
  const file = join(dir, 'sums.deepseek');
  assert.equal(await model.save(file), undefined);
  const bytes = readFileSync(file);
  model.saveSync(file);
  assert.ok(bytes.equals(readFileSync(file)));
  assert.deepEqual((await Model.open(runtime, file)).summary(), summary);
  rmSync(dir, { recursive: true });
  await assert.rejects(model.save(file), failure('IO', file));
  assert.throws(() => model.saveSync('sums.onnx'), failure('INVALID_ARGUMENT', '.deepseek'));
  await assert.rejects(model.save(7), failure('INVALID_ARGUMENT', 'path'));

  const report = model.planMemory({ batch: 4 });
  // 4 * 3 floats.
  assert.equal(report.outputBytes, 48);
  assert.equal(report.plannedBytes, report.arenaBytes + report.outputBytes);
  assert.equal(report.constantBytes, 12);
  assert.deepEqual(model.planMemoryForShapes({ x: [4, 3] }), report);
  assert.throws(() => model.planMemory({ rows: 1 }), failure('NOT_FOUND', 'rows', 'batch'));
  assert.throws(() => model.planMemory({}), failure('INVALID_ARGUMENT', 'batch'));
  assert.throws(() => model.planMemory({ batch: 9 }), failure('SHAPE_MISMATCH', '9'));
  assert.throws(() => model.planMemory({ batch: 'four' }), failure('INVALID_ARGUMENT', 'batch'));
  assert.throws(() => model.planMemoryForShapes({ z: [1] }), failure('NOT_FOUND', 'z'));
  assert.throws(() => model.planMemoryForShapes({ x: [4, 4] }), failure('SHAPE_MISMATCH', 'x'));
});

test('a graph that cannot be', async () => {
  const graph = new GraphBuilder();
  const x = graph.input('x', 'f32', [2, 3]);
  const other = new GraphBuilder().input('o', 'f32', [2]);
  const rows = [
    [() => graph.input('x', 'f32', [1]), 'INVALID_GRAPH', 'x'],
    [() => graph.input('n', 'f99', [1]), 'INVALID_ARGUMENT', 'f99'],
    [() => graph.input('n', 'f32', ['2*']), 'INVALID_ARGUMENT', '2*'],
    [() => graph.input('n', 'f32', [-1]), 'INVALID_ARGUMENT', '-1'],
    [() => graph.input('n', 'f32', 'n'), 'INVALID_ARGUMENT', 'shape'],
    [() => graph.input(3, 'f32', []), 'INVALID_ARGUMENT', 'name'],
    [() => graph.bound('n', 5, 2), 'INVALID_ARGUMENT'],
    [() => graph.constant('c', { shape: [2], data: new Float32Array(3) }), 'SHAPE_MISMATCH', 'c'],
    [() => graph.constant('c', 5), 'INVALID_ARGUMENT', 'c'],
    [() => graph.node('Teleport', [x]), 'UNSUPPORTED', 'Teleport'],
    [() => graph.node('Relu', [x], { attrs: 'colour = 1' }), 'UNSUPPORTED', 'colour'],
    [() => graph.node('Relu', [other]), 'INVALID_ARGUMENT', 'another graph'],
    [() => graph.node('Relu', [{}]), 'INVALID_ARGUMENT', 'inputs[0]'],
    [() => graph.node('Relu', x), 'INVALID_ARGUMENT', 'inputs'],
    [() => graph.node('MatMul', [x, x]), 'SHAPE_MISMATCH'],
    [() => graph.node('Relu', [x], { outputs: -1 }), 'INVALID_ARGUMENT', 'outputs'],
    [() => graph.output('y', 'x'), 'INVALID_ARGUMENT', 'value'],
    [() => new GraphBuilder(5), 'INVALID_ARGUMENT', 'name'],
  ];
  for (const [call, status, ...texts] of rows) {
    assert.throws(call, failure(status, ...texts), call.toString());
  }
  await assert.rejects(graph.build(runtime), failure('INVALID_GRAPH', 'output'));
  await assert.rejects(graph.build(), failure('INVALID_ARGUMENT', 'runtime'));
  graph.output('y', graph.node('Relu', [x])[0]);
  assert.equal((await graph.build(runtime)).outputs.length, 1);
});

/** y = relu(x w) v, with 1024 columns between: what a byte budget cuts into blocks of rows. */
async function wide(options) {
  const graph = new GraphBuilder('wide');
  const x = graph.input('x', 'f32', ['rows', 16]);
  const w = graph.constant('w', { shape: [16, 1024], data: new Float32Array(16 * 1024) });
  const v = graph.constant('v', { shape: [1024, 16], data: new Float32Array(16 * 1024) });
  const [up] = graph.node('MatMul', [x, w]);
  const [y] = graph.node('MatMul', [graph.node('Relu', [up])[0], v]);
  graph.output('y', y);
  return graph.build(runtime, options);
}

test('a budget is met, or refused with the least that would do', async () => {
  const planned = (model) => model.planMemory({ rows: 300 }).plannedBytes;
  const run = (model, rows) => model.session().run({ x: { shape: [rows, 16], data: new Float32Array(16 * rows) } });
  const whole = planned(await wide({ whole: true }));
  const shapes = { x: [300, 16] };
  const cut = await wide({ whole: true, shapes, memoryBudgetBytes: whole - 1 });
  assert.ok(planned(cut) < whole);
  assert.deepEqual((await run(cut, 300)).y.shape, [300, 16]);
  await assert.rejects(run(cut, 30_000), failure('BUDGET_EXCEEDED', 'memory_budget_bytes'));

  const refused = await wide({ shapes, memoryBudgetBytes: 1 }).catch((error) => error);
  assert.ok(failure('BUDGET_EXCEEDED', 'memory_budget_bytes is 1;')(refused));
  const least = Number(refused.message.match(/raise it to (\d+)/)[1]);
  assert.ok(least > 300 * 16 * 4 && least <= planned(cut));
  await assert.rejects(wide({ shapes, memoryBudgetBytes: least - 1 }), failure('BUDGET_EXCEEDED', `raise it to ${least}`));
  assert.equal(planned(await wide({ shapes, memoryBudgetBytes: least })), least);
});

test('bounds of symbols are kept and planned within', async () => {
  const open = await wide({});
  assert.throws(() => open.planMemoryWithinBounds(), failure('INVALID_ARGUMENT', "'rows'"));
  const bounded = await wide({ bounds: { rows: { min: 1, max: 300 } } });
  const { plannedBytes } = bounded.planMemoryWithinBounds();
  assert.equal(plannedBytes, bounded.planMemory({ rows: 300 }).plannedBytes);
  assert.deepEqual(bounded.summary().symbols, { rows: { min: 1, max: 300 } });
  const x = { shape: [301, 16], data: new Float32Array(16 * 301) };
  await assert.rejects(bounded.session().run({ x }), failure('SHAPE_MISMATCH', "'x'", 'rows is 301', '1 to 300'));
});

test('wrong options of a model are named', async () => {
  const rows = [
    [{ memoryBudgetBytes: -1 }, 'INVALID_ARGUMENT', 'memoryBudgetBytes'],
    [{ memoryBudgetBytes: '1' }, 'INVALID_ARGUMENT', 'options'],
    [{ shapes: { q: [1, 16] } }, 'NOT_FOUND', "'q'", "'x'"],
    [{ shapes: { x: [16] } }, 'SHAPE_MISMATCH', 'f32[rows, 16]', '[16]'],
    [{ shapes: { x: [-1, 16] } }, 'INVALID_ARGUMENT', 'options.shapes.x', '-1'],
    [{ shapes: { x: 3 } }, 'INVALID_ARGUMENT', 'options.shapes.x'],
    [{ shapes: 3 }, 'INVALID_ARGUMENT', 'options'],
    [{ whole: 1 }, 'INVALID_ARGUMENT', 'options'],
    [{ bounds: { rows: 3 } }, 'INVALID_ARGUMENT', 'options.bounds.rows'],
    [{ bounds: { rows: { max: -2 } } }, 'INVALID_ARGUMENT', 'options.bounds.rows.max'],
    [{ bounds: { row: { max: 2 } } }, 'NOT_FOUND', "'row'", "'rows'"],
    [7, 'INVALID_ARGUMENT', 'options'],
  ];
  for (const [options, status, ...texts] of rows) {
    await assert.rejects(wide(options), failure(status, ...texts), JSON.stringify(options));
  }
  const tight = { memoryBudgetBytes: 64, shapes: { input_ids: [1, 7] } };
  await assert.rejects(Model.open(runtime, encoder, tight), failure('BUDGET_EXCEEDED', 'memory_budget_bytes is 64'));
  assert.throws(() => Model.openSync(runtime, encoder, tight), failure('BUDGET_EXCEEDED'));
  await assert.rejects(Model.fromOnnx(runtime, new Uint8Array(1), { whole: 3 }), failure('INVALID_ARGUMENT', 'options'));
  assert.throws(() => Model.fromOnnxSync(runtime, new Uint8Array(1), { shapes: [] }), failure('INVALID_FILE'));
});

test('the encoder gives the stored tokens and vectors', async () => {
  const { cases: expected } = JSON.parse(readFileSync(join(encoder, 'expected.json'), 'utf8'));
  const bytes = readFileSync(join(encoder, 'expected.safetensors'));
  const header = Number(bytes.readBigUInt64LE(0));
  const info = JSON.parse(bytes.toString('utf8', 8, 8 + header)).embeddings;
  const data = bytes.subarray(8 + header + info.data_offsets[0], 8 + header + info.data_offsets[1]);
  const [count, width] = info.shape;
  const embedder = await Embedder.open(runtime, encoder);
  assert.equal(embedder.dim, width);
  const texts = expected.map((entry) => entry.text);
  assert.equal(texts.length, count);
  for (const { text, ids } of expected) assert.deepEqual([...embedder.tokenize(text)], ids);
  const vectors = await embedder.embed(texts);
  vectors.forEach((vector, row) => {
    assert.equal(vector.length, width);
    vector.forEach((value, i) => {
      const want = data.readFloatLE(4 * (row * width + i));
      assert.ok(Math.abs(value - want) <= 1e-5 * Math.max(1, Math.abs(want)), `text ${row}, component ${i}`);
    });
  });
  assert.deepEqual(embedder.embedSync(texts), vectors);
  const [alone] = await embedder.embed([texts[3]]);
  assert.deepEqual(alone, vectors[3]);
});

test('the embedder and its errors', async () => {
  await assert.rejects(Embedder.open(runtime, join(repository, 'nowhere')), failure('IO', 'nowhere'));
  const embedder = Embedder.openSync(runtime, encoder);
  assert.ok(embedder.maxTokens > 0);
  assert.deepEqual(await embedder.embed([]), []);
  assert.deepEqual(embedder.embedSync([]), []);
  await assert.rejects(embedder.embed('text'), failure('INVALID_ARGUMENT', 'texts'));
  await assert.rejects(embedder.embed(['a', 3]), failure('INVALID_ARGUMENT', 'texts'));
  assert.throws(() => embedder.tokenize(3), failure('INVALID_ARGUMENT', 'text'));
  await assert.rejects(embedder.embed(['a'], { signal: AbortSignal.abort() }), failure('CANCELLED'));
  await assert.rejects(embedder.embed(['a'], { timeoutMs: 0 }), failure('TIMEOUT'));
  const running = embedder.embed(Array.from({ length: 50 }, (_, i) => `text ${i}`));
  embedder.close();
  assert.equal((await running).length, 50);
  await assert.rejects(embedder.embed(['a']), failure('INVALID_STATE', 'embedder'));
  assert.throws(() => embedder.embedSync(['a']), failure('INVALID_STATE'));
  assert.throws(() => embedder.tokenize('a'), failure('INVALID_STATE'));
  assert.throws(() => embedder.dim, failure('INVALID_STATE'));
  assert.throws(() => embedder.maxTokens, failure('INVALID_STATE'));
});

test('an error of a run names its node', async () => {
  const graph = new GraphBuilder();
  const x = graph.input('x', 'f32', [2]);
  const i = graph.input('i', 'i64', [1]);
  graph.output('y', graph.node('Gather', [x, i], { name: 'pick', attrs: 'axis = 0' })[0]);
  const session = (await graph.build(runtime)).session();
  const inputs = {
    x: { shape: [2], data: new Float32Array(2) },
    i: { shape: [1], data: BigInt64Array.of(5n) },
  };
  await assert.rejects(session.run(inputs), (e) => failure('INVALID_ARGUMENT', '5')(e) && e.node === 'pick');
});

test('models are compiled for a precision', async () => {
  const digits = join(repository, 'tests/golden/digits/digits.onnx');
  const shapes = { x: [4, 1, 8, 8] };
  const open = (options) => Model.open(runtime, digits, { shapes, ...options });
  const report = JSON.parse((await open({ precision: 'int8', metric: 'top1' })).precisionReport);
  assert.equal(report.requested, 'int8');
  assert.equal(report.metric, 'top1');
  assert.equal(report.synthetic, true);
  assert.ok(report.layers.some((layer) => layer.precision === 'int8'));
  assert.equal((await open({ precision: 'f32' })).precisionReport, null);
  await assert.rejects(open({ precision: 'int7' }), failure('INVALID_ARGUMENT', "'int7'", 'f32, bf16, f16, int8 or auto'));
  await assert.rejects(open({ precision: 'int8', metric: 'bleu' }), failure('INVALID_ARGUMENT', 'cosine or top1'));
  await assert.rejects(open({ precision: 'int8', accuracyBudget: 0.5 }), failure('INVALID_ARGUMENT', '0.95 to 1'));
  await assert.rejects(open({ precision: 'int8', calibration: '/no/such.npz' }), failure('IO', '/no/such.npz'));
  await assert.rejects(open({ calibration: '/no/such.npz' }), failure('INVALID_ARGUMENT', 'needs a precision'));
});
