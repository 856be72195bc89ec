// Plays tests/surface/cases.json: the same calls, bits and errors as every other surface.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { GraphBuilder } from '@libdeepseek/node';
import { failure, repository, runtime } from './support.mjs';

const { cases } = JSON.parse(readFileSync(join(repository, 'tests/surface/cases.json'), 'utf8'));
const arrays = {
  f32: Float32Array, f64: Float64Array, f16: Uint16Array, bf16: Uint16Array, i8: Int8Array,
  i16: Int16Array, i32: Int32Array, i64: BigInt64Array, u16: Uint16Array, u32: Uint32Array,
  u64: BigUint64Array,
};

function tensor({ dtype, shape, hex, strings }) {
  if (strings) return { dtype, shape, data: strings };
  const bytes = Uint8Array.from(Buffer.from(hex, 'hex'));
  return { dtype, shape, data: new (arrays[dtype] ?? Uint8Array)(bytes.buffer) };
}

function flat({ dtype, shape, data }) {
  if (dtype === 'string') return { dtype, shape, strings: data };
  assert.ok(data instanceof (arrays[dtype] ?? Uint8Array), `${dtype} came as ${data.constructor.name}`);
  const hex = Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('hex');
  return { dtype, shape, hex };
}

async function play({ graph, inputs }, sync) {
  const builder = new GraphBuilder('case');
  const values = new Map([['null', null]]);
  for (const { name, dtype, shape } of graph.inputs) values.set(name, builder.input(name, dtype, shape));
  for (const { symbol, min, max } of graph.bounds ?? []) builder.bound(symbol, min, max ?? undefined);
  for (const constant of graph.constants ?? []) {
    values.set(constant.name, builder.constant(constant.name, tensor(constant)));
  }
  for (const { op, name, attrs, inputs: from, outputs } of graph.nodes) {
    const args = from.map((value) => (value === null ? null : values.get(value)));
    const made = builder.node(op, args, { name, attrs, outputs: outputs.length });
    outputs.forEach((output, i) => values.set(output, made[i]));
  }
  for (const [name, value] of graph.outputs) builder.output(name, values.get(value));
  const { memory_budget_bytes: memoryBudgetBytes, bounds = {}, ...others } = graph.options ?? {};
  const ends = Object.entries(bounds).map(([symbol, { min, max }]) => [symbol, { min, max: max ?? undefined }]);
  const options = graph.options && { memoryBudgetBytes, bounds: Object.fromEntries(ends), ...others };
  const session = (await builder.build(runtime, options)).session();
  const named = Object.fromEntries(inputs.map((input) => [input.name, tensor(input)]));
  return sync ? session.runSync(named) : session.run(named);
}

for (const one of cases) {
  for (const sync of [false, true]) {
    test(`${one.name} (${sync ? 'runSync' : 'run'})`, async () => {
      const { outputs, error } = one.expect;
      if (error) {
        await assert.rejects(play(one, sync), failure(error.code, ...error.contains));
        return;
      }
      const got = Object.entries(await play(one, sync));
      assert.deepEqual(
        got.map(([name, value]) => ({ name, ...flat(value) })),
        outputs.map(({ name, dtype, shape, hex, strings }) =>
          dtype === 'string' ? { name, dtype, shape, strings } : { name, dtype, shape, hex },
        ),
      );
    });
  }
}
