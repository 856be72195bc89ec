// dynamic: a graph recorded operation by operation, with a leading extent that is not known.
//
// One plan serves 50 tensors of 50 to 99 rows of 512 numbers. How many bytes each run takes is
// known before it starts, as a formula and as a number.
import { GraphBuilder, Runtime } from '@libdeepseek/node';

const [width, shortest, tensors] = [512, 50, 50];
// Numbers that every language of this example can make alike.
const numbers = (rows, step) => ({
  shape: [rows, width],
  data: Float32Array.from({ length: rows * width }, (_, i) => (((i * step) % 101) - 50) / 512),
});

const graph = new GraphBuilder('dynamic');
const x = graph.input('x', 'f32', ['rows', width]);
const w = graph.constant('w', numbers(width, 7));
const [product] = graph.node('MatMul', [x, w]);
const [activated] = graph.node('Gelu', [product]);
const [sum] = graph.node('Add', [activated, x]);
graph.output('y', graph.node('Softmax', [sum], { attrs: 'axis = -1' })[0]);
const model = await graph.build(new Runtime());
console.log(`bytes of a run: ${model.memoryFormula}`);

const session = model.session();
for (let rows = shortest; rows < shortest + tensors; rows++) {
  const { plannedBytes } = model.planMemory({ rows });
  const { y } = await session.run({ x: numbers(rows, rows) });
  const bits = new Uint32Array(y.data.buffer, y.data.byteOffset, 1)[0].toString(16).padStart(8, '0');
  console.log(
    `rows ${rows}: ${plannedBytes} bytes planned, ${session.observedBytes} used, y[0][0] has the bits ${bits}`,
  );
}
