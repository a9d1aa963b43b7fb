import { access, constants, rename } from "node:fs/promises"
import { basename, join } from "node:path"
import { withPackage } from "./debian.js"
import { cacheDir } from "./paths.js"

/** A file of a Debian package. */
export interface PackageFile {
  package: string
  /** Where it is once the package is installed. */
  path: string
}

/** Firmware that `findFirmware` knows: it drives virtio disks. */
export type FirmwareName = "seabios" | "u-boot"

const images: Readonly<Record<FirmwareName, PackageFile>> = {
  seabios: { package: "seabios", path: "/usr/share/seabios/bios-256k.bin" },
  "u-boot": { package: "u-boot-qemu", path: "/usr/lib/u-boot/qemu-x86/u-boot.rom" },
}

/** Where `findFirmware` looks. */
export interface FindFirmwareOptions {
  /** Default: `cacheDir()`. */
  cacheDir?: string
  /** Called with a line for people before something slow happens. */
  log?: (line: string) => void
}

/**
 * Path of a ROM image for guests: of the installed package, else of the cache, else downloaded from Debian and unpacked
 * into the cache, not installed.
 *
 * @throws ConfigError that says what to do when there is none; VirtkitError when the download fails
 */
export function findFirmware(name: FirmwareName, options: FindFirmwareOptions = {}): Promise<string> {
  return findFile(images[name], options)
}

/**
 * As `findFirmware`, for any file of a package that is no symbolic link. Programs come without the libraries that they need.
 */
export async function findFile(file: PackageFile, options: FindFirmwareOptions = {}): Promise<string> {
  const directory = join(options.cacheDir ?? cacheDir(), "firmware")
  const cached = join(directory, `${file.package}-${basename(file.path)}`)
  for (const place of [file.path, cached]) if (await readable(place)) return place
  options.log?.(`downloading ${file.package} into ${directory} (it is not installed)`)
  await withPackage(file.package, directory, async (folder) => {
    await rename(join(folder, file.path), cached)
  })
  return cached
}

function readable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  )
}
