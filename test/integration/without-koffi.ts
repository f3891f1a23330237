/** To be loaded first, by `--import`: koffi cannot be loaded then, in no thread of the process. */
import { registerHooks } from 'node:module'

registerHooks({
  resolve(specifier, context, next) {
    if (specifier === 'koffi') throw new Error('koffi is not there')
    return next(specifier, context)
  },
})
