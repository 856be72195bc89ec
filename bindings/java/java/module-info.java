/**
 * libdeepseek: one engine that loads a model, compiles it for the machine it is on and runs it.
 */
module ai.deepseek {
    exports ai.deepseek;
}
