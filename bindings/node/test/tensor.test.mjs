// Values in and out: every element type, scalars, empty tensors, strings, wrong arrays.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GraphBuilder, dtypes } from '@libdeepseek/node';
import { failure, runtime, unary } from './support.mjs';

const own = {
  f32: Float32Array, f64: Float64Array, f16: Uint16Array, bf16: Uint16Array, i8: Int8Array,
  i16: Int16Array, i32: Int32Array, i64: BigInt64Array, u16: Uint16Array, u32: Uint32Array,
  u64: BigUint64Array,
};
const packed = { i4: 2, u4: 2, f4e2m1: 2, i2: 4, u2: 4 };

for (const dtype of dtypes()) {
  test(`${dtype} goes in and comes out`, async () => {
    const session = (await unary('Identity', dtype, [8])).session();
    let data;
    if (dtype === 'string') data = ['', 'a', 'ü', '日本', '😀', 'a\u0000b', '\n', 'z'];
    else if (dtype === 'bool') data = Uint8Array.of(1, 0, 0, 1, 1, 1, 0, 0);
    else if (dtype === 'i64' || dtype === 'u64') data = own[dtype].from([0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n]);
    else data = (own[dtype] ?? Uint8Array).from({ length: 8 / (packed[dtype] ?? 1) }, (_, i) => i);
    for (const y of [session.runSync({ x: { dtype, shape: [8], data } }).y,
      (await session.run({ x: { dtype, shape: [8], data } })).y]) {
      assert.equal(y.dtype, dtype);
      assert.deepEqual(y.shape, [8]);
      assert.deepEqual(y.data, data);
      assert.notEqual(y.data, data);
    }
  });
}

test('an output never shares memory with an input or a constant', async () => {
  const graph = new GraphBuilder();
  const x = graph.input('x', 'f32', [2]);
  const c = graph.constant('c', { shape: [2], data: Float32Array.of(5, 6) });
  graph.output('a', graph.node('Identity', [x])[0]);
  graph.output('b', graph.node('Identity', [x])[0]);
  graph.output('c', graph.node('Identity', [c])[0]);
  const session = (await graph.build(runtime)).session();
  const data = Float32Array.of(1, 2);
  const first = await session.run({ x: { shape: [2], data } });
  for (const name of ['a', 'b', 'c']) first[name].data.fill(9);
  assert.deepEqual([...data], [1, 2]);
  const second = await session.run({ x: { shape: [2], data } });
  assert.deepEqual([...second.a.data, ...second.b.data, ...second.c.data], [1, 2, 1, 2, 5, 6]);
});

test('scalars have an empty shape', async () => {
  const session = (await unary('Neg', 'f32', [])).session();
  const { y } = await session.run({ x: { shape: [], data: Float32Array.of(3) } });
  assert.deepEqual(y, { dtype: 'f32', shape: [], data: Float32Array.of(-3) });
});

test('empty tensors', async () => {
  const session = (await unary('Neg', 'f32', ['n', 3])).session();
  const { y } = await session.run({ x: { shape: [0, 3], data: new Float32Array(0) } });
  assert.deepEqual(y, { dtype: 'f32', shape: [0, 3], data: new Float32Array(0) });
});

test('part of a buffer, a Buffer and a clamped array are read where they are', async () => {
  const floats = new Float32Array([9, 9, 1, 2]).subarray(2);
  const f32 = (await unary('Neg', 'f32', [2])).session();
  assert.deepEqual([...f32.runSync({ x: { shape: [2], data: floats } }).y.data], [-1, -2]);
  const u8 = (await unary('Identity', 'u8', [2])).session();
  assert.deepEqual([...u8.runSync({ x: { shape: [2], data: Buffer.from([1, 2]) } }).y.data], [1, 2]);
  const clamped = Uint8ClampedArray.of(3, 4);
  assert.deepEqual([...(await u8.run({ x: { shape: [2], data: clamped } })).y.data], [3, 4]);
});

test('names and text in any script', async () => {
  const graph = new GraphBuilder('граф');
  graph.output('größe', graph.node('Identity', [graph.input('入力', 'string', [1])])[0]);
  const session = (await graph.build(runtime)).session();
  const out = await session.run({ 入力: { shape: [1], data: ['\u{1f600} e\u0301'] } });
  assert.deepEqual(out, { größe: { dtype: 'string', shape: [1], data: ['\u{1f600} e\u0301'] } });
});

test('sequences are arrays', async () => {
  const graph = new GraphBuilder();
  const x = graph.input('x', 'f32', [2]);
  graph.output('s', graph.node('SequenceConstruct', [x, x])[0]);
  const session = (await graph.build(runtime)).session();
  const one = { dtype: 'f32', shape: [2], data: Float32Array.of(1, 2) };
  assert.deepEqual(await session.run({ x: one }), { s: [one, one] });
});

test('a wrong array, shape or kind of value is named', async () => {
  const session = (await unary('Neg', 'f32', [2])).session();
  const data = new Float32Array(2);
  const rows = [
    [{ dtype: 'f32', shape: [2], data: new Float64Array(2) }, 'DTYPE_MISMATCH', 'Float32Array', 'Float64Array'],
    [{ dtype: 'f32', shape: [2], data: ['a', 'b'] }, 'DTYPE_MISMATCH', 'Float32Array', 'an array'],
    [{ dtype: 'string', shape: [2], data }, 'DTYPE_MISMATCH', 'array of strings', 'Float32Array'],
    [{ shape: [2], data: new Float64Array(2) }, 'DTYPE_MISMATCH', 'f32', 'f64'],
    [{ dtype: 'f33', shape: [2], data }, 'INVALID_ARGUMENT', 'f33'],
    [{ shape: [3], data }, 'SHAPE_MISMATCH', '12', '8'],
    [{ shape: [1], data }, 'SHAPE_MISMATCH', '4', '8'],
    [{ shape: [-2], data }, 'INVALID_ARGUMENT', '-2'],
    [{ shape: [1.5], data }, 'INVALID_ARGUMENT', '1.5'],
    [{ shape: [NaN], data }, 'INVALID_ARGUMENT', 'NaN'],
    [{ shape: [2 ** 40, 2 ** 40], data }, 'SHAPE_MISMATCH'],
    [{ shape: ['2'], data }, 'INVALID_ARGUMENT', 'shape'],
    [{ data }, 'INVALID_ARGUMENT', 'shape'],
    [{ shape: [2] }, 'INVALID_ARGUMENT', 'data'],
    [{ shape: [2], data: new ArrayBuffer(8) }, 'INVALID_ARGUMENT', 'data'],
    [{ shape: [2], data: [1, 2] }, 'INVALID_ARGUMENT', 'data'],
    [data, 'INVALID_ARGUMENT', 'shape'],
    [7, 'INVALID_ARGUMENT', 'tensor'],
    [null, 'INVALID_ARGUMENT', 'tensor'],
    [undefined, 'INVALID_ARGUMENT', 'tensor'],
  ];
  for (const [x, status, ...texts] of rows) {
    await assert.rejects(session.run({ x }), failure(status, 'x', ...texts), `${JSON.stringify(x)}`);
    assert.throws(() => session.runSync({ x }), failure(status, 'x', ...texts));
  }
  for (const inputs of [undefined, null, 3, 'x', () => {}]) {
    await assert.rejects(session.run(inputs), failure('INVALID_ARGUMENT', 'inputs'));
    assert.throws(() => session.runSync(inputs), failure('INVALID_ARGUMENT', 'inputs'));
  }
});
