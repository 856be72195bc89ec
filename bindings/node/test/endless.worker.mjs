// A worker with a run that never ends by itself: it is terminated in the middle.
import { parentPort } from 'node:worker_threads';
import { Runtime } from '@libdeepseek/node';
import { endless, loopInputs, looping } from './support.mjs';

const own = new Runtime({ threads: 1 });
const run = (await looping(own)).session().run(loopInputs(endless));
while (own.reservedBytes === 0) await new Promise((resolve) => setTimeout(resolve, 1));
parentPort.postMessage('running');
await run;
