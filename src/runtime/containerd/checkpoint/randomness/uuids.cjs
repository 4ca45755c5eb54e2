// Written by Try It Now. Instances start with the memory of one process, so UUIDs must not be made of random numbers that
// were drawn before: `crypto.randomUUID` draws new ones each time. docs/random-numbers.md says how to turn this off.
'use strict';
try {
  const crypto = require('crypto');
  const original = crypto.randomUUID;
  if (typeof original === 'function') {
    const randomUUID = (options) => {
      const isChecked = options === undefined || (typeof options === 'object' && options !== null &&
        ['undefined', 'boolean'].includes(typeof options.disableEntropyCache));
      // The original refuses wrong options.
      return original(isChecked ? { ...options, disableEntropyCache: true } : options);
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
    require('module').syncBuiltinESMExports();
  }
} catch {
  // An app must start whatever its version of Node lacks.
}
