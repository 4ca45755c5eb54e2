// Written by Try It Now. Instances start with the memory of one process, so what `crypto.randomUUID` and `crypto.randomInt`
// drew before and stored must not be used: they draw new numbers each time. docs/random-numbers.md says how to turn this
// off.
'use strict';
try {
  const crypto = require('crypto');
  const { randomUUID: storedUUID, randomInt: storedInt, randomBytes } = crypto;
  const BITS = 48;

  if (typeof storedUUID === 'function') {
    const randomUUID = (options) => {
      const isChecked = options === undefined || (typeof options === 'object' && options !== null &&
        ['undefined', 'boolean'].includes(typeof options.disableEntropyCache));
      // The original refuses wrong options.
      return storedUUID(isChecked ? { ...options, disableEntropyCache: true } : options);
    };
    crypto.randomUUID = randomUUID;
    // `crypto.randomUUID` of browsers, which Node has too.
    const web = crypto.webcrypto;
    const prototype = web && Object.getPrototypeOf(web);
    const method = prototype && prototype.randomUUID;
    if (typeof method === 'function') {
      prototype.randomUUID = {
        randomUUID() {
          return this === web ? randomUUID() : method.call(this);
        },
      }.randomUUID;
    }
  }

  if (typeof storedInt === 'function') {
    const newInt = (min, max) => {
      const range = max - min;
      const limit = 2 ** BITS - (2 ** BITS % range);
      for (;;) {
        const number = randomBytes(BITS / 8).readUIntBE(0, BITS / 8);
        if (number < limit) return (number % range) + min;
      }
    };
    // The original refuses wrong arguments. Its number is not used.
    crypto.randomInt = function randomInt(...args) {
      const bounds = args.filter((argument) => typeof argument === 'number');
      const [min, max] = bounds.length > 1 ? bounds : [0, bounds[0]];
      const callback = args[args.length - 1];
      if (typeof callback !== 'function') {
        storedInt(...args);
        return newInt(min, max);
      }
      return storedInt(...args.slice(0, -1), (error, ...rest) => {
        callback(error, ...(error ? rest : [newInt(min, max)]));
      });
    };
  }

  require('module').syncBuiltinESMExports();
} catch {
  // An app must start whatever its version of Node lacks.
}
