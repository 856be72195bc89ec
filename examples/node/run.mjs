// run MODEL.onnx: runs any model once, on zeros, and prints what it is and what it gives.
// Symbolic extents are taken to be 1.
import { Model, Runtime } from '@libdeepseek/node';

const model = await Model.open(new Runtime(), process.argv[2]);
const zeros = ({ dtype, shape }) => {
  const extents = shape.map((extent) => (typeof extent === 'number' ? extent : 1));
  const count = extents.reduce((product, extent) => product * extent, 1);
  const arrays = { f32: Float32Array, i64: BigInt64Array, i32: Int32Array, u8: Uint8Array };
  return { dtype, shape: extents, data: new arrays[dtype](count) };
};
const inputs = Object.fromEntries(model.inputs.map((input) => [input.name, zeros(input)]));
console.log(await model.session().run(inputs));
