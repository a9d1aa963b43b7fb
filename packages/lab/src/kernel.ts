import { access, constants, mkdir, readdir, rename } from "node:fs/promises"
import { join } from "node:path"
import { ConfigError, VirtkitError } from "@virtkit/interface"
import { withPackage } from "./debian.js"
import { cacheDir } from "./paths.js"
import { findTool, run } from "./tools.js"

/** A kernel to boot. */
export interface Kernel {
  /** The bzImage. */
  vmlinuz: string
  /** Directory that holds "kernel/" with the modules: /lib/modules/RELEASE of the package. */
  modulesDir: string
  /** What `uname -r` will say. */
  release: string
}

/** Where `findKernel` looks. */
export interface FindKernelOptions {
  /** Default: `cacheDir()`. */
  cacheDir?: string
  /** "debian": the cloud kernel from the package manager; "host": what is in /boot; "auto": the first that works. */
  source?: "auto" | "debian" | "host"
  /** Such as "6.12": the newest kernel of that series. Default: the one that the distribution has as its own. */
  series?: string
  /** Called with a line for people before something slow happens. */
  log?: (line: string) => void
}

/** Debian's package that depends on the newest kernel for virtual machines; a second one is named after the series. */
const META_PACKAGE = "linux-image-cloud-amd64"

async function readable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  )
}

async function list(directory: string): Promise<string[]> {
  return readdir(directory).catch(() => [])
}

/** Newest first: 6.1.0-56 comes before 6.1.0-9. */
function newestFirst(releases: string[]): string[] {
  return releases.sort((a, b) => b.localeCompare(a, "en", { numeric: true }))
}

/** "6.1.0-56-cloud-amd64" is of the series "6.1" and not of "6.12"; everything is of undefined. */
export function isOfSeries(release: string, series: string | undefined): boolean {
  return series === undefined || release.startsWith(`${series}.`)
}

async function cached(directory: string, series: string | undefined): Promise<Kernel | undefined> {
  for (const release of newestFirst(await list(directory))) {
    const kernel = {
      vmlinuz: join(directory, release, "vmlinuz"),
      modulesDir: join(directory, release, "modules"),
      release,
    }
    if (release.startsWith(".") || !isOfSeries(release, series)) continue
    if (await readable(kernel.vmlinuz)) return kernel
  }
  return undefined
}

async function fromHost(series: string | undefined): Promise<Kernel | undefined> {
  const releases = (await list("/boot"))
    .filter((name) => name.startsWith("vmlinuz-"))
    .map((name) => name.slice(8))
    .filter((release) => isOfSeries(release, series))
  for (const release of newestFirst(releases)) {
    const kernel = { vmlinuz: `/boot/vmlinuz-${release}`, modulesDir: `/lib/modules/${release}`, release }
    if ((await readable(kernel.vmlinuz)) && (await readable(join(kernel.modulesDir, "kernel")))) return kernel
  }
  return undefined
}

/** The kernel's own package, whose name changes with each of its releases: "linux-image-6.1.0-56-cloud-amd64". */
async function packageName(series: string | undefined): Promise<string | undefined> {
  const metas = [META_PACKAGE]
  if (series !== undefined) metas.unshift(META_PACKAGE.replace("image-", `image-${series}-`))
  for (const meta of metas) {
    const depends = await run("apt-cache", ["depends", meta]).catch(() => Buffer.from(""))
    const [, name, release] = /Depends: (linux-image-(\S+))/.exec(depends.toString()) ?? []
    if (release !== undefined && isOfSeries(release, series)) return name
  }
  return undefined
}

/** Downloads the package and moves what it has of a kernel to a folder of `directory`, named after the release. */
async function download(name: string, directory: string): Promise<void> {
  const release = name.replace(/^linux-image-/, "")
  await withPackage(name, directory, async (folder) => {
    const ready = join(folder, "ready")
    await mkdir(ready)
    await rename(join(folder, "boot", `vmlinuz-${release}`), join(ready, "vmlinuz"))
    const merged = join(folder, "usr/lib/modules")
    const modules = (await readable(merged)) ? merged : join(folder, "lib/modules")
    await rename(join(modules, release), join(ready, "modules"))
    // Another process may have been quicker: then its copy is the one.
    await rename(ready, join(directory, release)).catch(() => {})
  })
}

async function fromDebian(
  directory: string,
  series: string | undefined,
  log: (line: string) => void,
): Promise<Kernel> {
  if (!findTool("apt-get") || !findTool("dpkg-deb"))
    throw new ConfigError("no apt-get here to get Debian's cloud kernel with")
  let name = await packageName(series)
  if (!name && process.getuid?.() === 0) {
    log("updating the package lists to find a guest kernel")
    await run("apt-get", ["update", "-qq"], { env: { DEBIAN_FRONTEND: "noninteractive" } })
    name = await packageName(series)
  }
  if (!name) {
    const wanted = series === undefined ? META_PACKAGE : `cloud kernel of the series ${series}`
    throw new ConfigError(`the package lists have no ${wanted}; run: apt-get update`)
  }
  log(`downloading the guest kernel ${name} into ${directory} (some 30 MB; it is not installed)`)
  await download(name, directory)
  const kernel = await cached(directory, series)
  if (!kernel) throw new VirtkitError("ERR_VIRTKIT_KERNEL", `${name} holds no kernel`)
  return kernel
}

/**
 * A distribution's kernel for guests: what the cache has, else Debian's cloud kernel (downloaded and unpacked into the
 * cache, not installed), else the host's own in /boot.
 *
 * @throws ConfigError that says what to do when there is none
 */
export async function findKernel(options: FindKernelOptions = {}): Promise<Kernel> {
  const { source = "auto", series } = options
  if (series !== undefined && !/^\d+\.\d+$/.test(series))
    throw new ConfigError(`series: "${series}" is not like "6.12"`)
  const folder = join(options.cacheDir ?? cacheDir(), "kernels")
  // Apart, so that a kernel of a series is not taken for the distribution's own, which has no name of its own here.
  const directory = series === undefined ? folder : join(`${folder}-series`, series)
  let reason = ""
  if (source !== "host") {
    const kernel = (await cached(directory, series)) ?? (await cached(folder, series))
    if (kernel) return kernel
    try {
      return await fromDebian(directory, series, options.log ?? (() => {}))
    } catch (error) {
      reason = `: ${(error as Error).message}`
    }
  }
  const kernel = source === "debian" ? undefined : await fromHost(series)
  if (kernel) return kernel
  const kind = series === undefined ? "guest kernel" : `guest kernel of the series ${series}`
  throw new ConfigError(`no ${kind} found${reason || " in /boot that this user may read, with its modules"}`)
}
