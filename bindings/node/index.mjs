import library from './index.js';

export const {
  DeepseekError,
  Embedder,
  GraphBuilder,
  GraphValue,
  Model,
  Runtime,
  Session,
  dtypes,
  heapBytes,
  statusCodes,
  version,
} = library;
