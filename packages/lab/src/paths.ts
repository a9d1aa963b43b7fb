import { userInfo } from "node:os"
import { join, resolve } from "node:path"

/**
 * Where everything that can be made again is kept: kernels, images, the agent.
 * `$VIRTKIT_CACHE`, else `$XDG_CACHE_HOME/virtkit`, else `~/.cache/virtkit`.
 */
export function cacheDir(environment: NodeJS.ProcessEnv = process.env): string {
  if (environment.VIRTKIT_CACHE) return resolve(environment.VIRTKIT_CACHE)
  if (environment.XDG_CACHE_HOME) return join(resolve(environment.XDG_CACHE_HOME), "virtkit")
  // An empty HOME is no home directory, and os.homedir() would give it all the same.
  return join(environment.HOME || userInfo().homedir, ".cache", "virtkit")
}
