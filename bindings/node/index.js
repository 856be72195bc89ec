'use strict';

/** What every failure of the library is thrown as, or a promise rejected with. */
class DeepseekError extends Error {
  constructor(message, code, status, node) {
    super(message);
    this.code = code;
    this.status = status;
    if (node != null) this.node = node;
  }
}
Object.defineProperty(DeepseekError.prototype, 'name', { value: 'DeepseekError' });

const target = `${process.platform}-${process.arch}`;
let native;
try {
  native = require(`./deepseek.${target}.node`);
} catch (cause) {
  const have = require('node:fs').readdirSync(__dirname).filter((name) => name.endsWith('.node'));
  throw new Error(
    `@libdeepseek/node cannot be loaded on ${target}; this package holds ${have.join(', ') || 'no binary'}`,
    { cause },
  );
}
native.setErrorClass(DeepseekError);

module.exports = {
  DeepseekError,
  Embedder: native.Embedder,
  GraphBuilder: native.GraphBuilder,
  GraphValue: native.GraphValue,
  Model: native.Model,
  Runtime: native.Runtime,
  Session: native.Session,
  dtypes: native.dtypes,
  heapBytes: native.heapBytes,
  statusCodes: native.statusCodes,
  version: native.version,
};
