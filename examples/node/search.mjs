// search MODEL_DIR CORPUS.txt QUESTIONS.txt
//
// Semantic search: one paragraph a line in the corpus, one question a line. The scores
// have the same bits as those of the C, C++ and Java examples.
import { readFile } from 'node:fs/promises';
import { performance } from 'node:perf_hooks';
import { DeepseekError, Embedder, Runtime } from '@libdeepseek/node';

const lines = async (path) => {
  const all = (await readFile(path, 'utf8')).split(/\r?\n/);
  if (all.at(-1) === '') all.pop();
  return all;
};

/** Sum of products in 32-bit floats, in index order. */
function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum = Math.fround(sum + Math.fround(a[i] * b[i]));
  return sum;
}

/** The first 80 bytes of a text, cut between characters. */
function cut(text) {
  const bytes = Buffer.from(text);
  let end = Math.min(80, bytes.length);
  while (end < bytes.length && (bytes[end] & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

function bits(score) {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, score);
  return view.getUint32(0).toString(16).padStart(8, '0');
}

async function search(directory, corpusPath, questionsPath) {
  const [corpus, questions] = await Promise.all([lines(corpusPath), lines(questionsPath)]);
  const start = performance.now();
  const embedder = await Embedder.open(new Runtime(), directory);
  const loaded = performance.now();
  const passages = await embedder.embed(corpus);
  const embedded = performance.now();

  for (const question of questions) {
    const [vector] = await embedder.embed([question]);
    const hits = passages.map((passage, index) => ({ index, score: dot(vector, passage) }));
    hits.sort((a, b) => b.score - a.score || a.index - b.index);
    console.log(`Q ${question}`);
    hits.slice(0, 3).forEach(({ index, score }, rank) => {
      console.log(`  ${rank + 1} ${score.toFixed(6)} ${bits(score)} ${cut(corpus[index])}`);
    });
  }

  const answered = performance.now();
  const ms = (from, to) => (to - from).toFixed(1);
  const each = questions.length ? (answered - embedded) / questions.length : 0;
  console.log(
    `# ${corpus.length} passages, ${questions.length} questions, load ${ms(start, loaded)} ms, ` +
      `corpus ${ms(loaded, embedded)} ms, per question ${each.toFixed(1)} ms`,
  );
  embedder.close();
}

const args = process.argv.slice(2);
if (args.length !== 3) {
  console.error('usage: search MODEL_DIR CORPUS.txt QUESTIONS.txt');
  process.exitCode = 2;
} else {
  try {
    await search(...args);
  } catch (error) {
    // A failure of the library, or a file that cannot be read: one line, no stack.
    const what = error instanceof DeepseekError ? `${error.status}: ` : '';
    console.error(`search: ${what}${error.message}`);
    process.exitCode = 1;
  }
}
