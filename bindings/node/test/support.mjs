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

/** A model whose run takes long: a loop of products of square matrices. */
export async function slow(size = 512, steps = 200) {
  const graph = new GraphBuilder('slow');
  const x = graph.input('x', 'f32', [size, size]);
  let y = x;
  for (let i = 0; i < steps; i++) [y] = graph.node('MatMul', [y, x]);
  graph.output('y', y);
  const model = await graph.build(runtime);
  const inputs = { x: { shape: [size, size], data: new Float32Array(size * size) } };
  return { model, inputs };
}
