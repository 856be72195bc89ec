// What the tests share. They run in an empty directory where the package is installed;
// DEEPSEEK_REPOSITORY says where the repository is, for models and cases.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { DeepseekError, GraphBuilder, Runtime } from '@libdeepseek/node';

export const repository = process.env.DEEPSEEK_REPOSITORY;
export const encoder = join(repository, 'tests/golden/hf/bert-mean');
export const runtime = new Runtime({ threads: 2 });

/** Matches a DeepseekError with this status and these texts in its message. */
export const failure =
  (status, ...texts) =>
  (error) => {
    assert.ok(error instanceof DeepseekError, `expected a DeepseekError, got ${error?.stack}`);
    assert.equal(error.name, 'DeepseekError');
    assert.equal(error.status, status, error.message);
    assert.equal(typeof error.code, 'number');
    for (const text of texts) assert.ok(error.message.includes(text), `no '${text}' in: ${error.message}`);
    return true;
  };

/** A model y = op(x). */
export async function unary(op, dtype, shape, options) {
  const graph = new GraphBuilder(op);
  const x = graph.input('x', dtype, shape);
  const [y] = graph.node(op, [x], options);
  graph.output('y', y);
  return graph.build(runtime);
}

/**
 * A model y = -x of rows [batch, seq, 2], and z: a product, as many times as the scalar `rounds`
 * says.
 */
export async function looping(where = runtime) {
  const graph = new GraphBuilder('looping');
  const x = graph.input('x', 'f32', ['batch', 'seq', 2]);
  const rounds = graph.input('rounds', 'i64', []);
  const start = graph.constant('start', { shape: [8, 8], data: new Float32Array(64) });
  const attrs = `carried = 1, body = graph "body" { input %i: i64[] input %go: bool[]
    input %v: f32[8, 8] %w = MatMul(%v, %v) output "go" = %go output "w" = %w }`;
  graph.output('z', graph.node('Loop', [rounds, null, start], { attrs })[0]);
  graph.output('y', graph.node('Neg', [x])[0]);
  return graph.build(where);
}

/** Rounds of a run that never ends unless it is cut short, on a fast or a slow machine. */
export const endless = 2n ** 63n - 1n;

const scalar = (n) => ({ shape: [], data: BigInt64Array.of(n) });
const rows = (...values) => ({ shape: [values.length / 2, 2], data: Float32Array.from(values) });

export const loopInputs = (n) => ({ x: { shape: [1, 1, 2], data: Float32Array.of(1, 2) }, rounds: scalar(n) });
export const loopLists = (n) => ({ x: [rows(1, 2, 3, 4), rows(5, 6)], rounds: [scalar(n)] });

/** Turns of the event loop. */
export async function turns(count) {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setTimeout(resolve, 1));
}
