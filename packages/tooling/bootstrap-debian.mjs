// The Debian packages that building, testing and running virtkit need.
import { spawnSync } from "node:child_process"
import { existsSync } from "node:fs"
import { join, resolve } from "node:path"
import { findProgram, run, say, UserMustAct } from "./bootstrap-lib.mjs"

/** Whether libuv's header is where native/CMakeLists.txt looks for it. */
function hasLibuvHeader() {
  const nodeHeaders = resolve(process.execPath, "../../include/node")
  return [nodeHeaders, "/usr/include/node", "/usr/local/include/node", "/usr/include"].some((path) =>
    existsSync(join(path, "uv.h")),
  )
}

/** Whether clang has the library of libFuzzer, which comes in a package of its own. */
function hasLibFuzzer() {
  if (!has("clang++")) return false
  const printed = spawnSync("clang++", ["-print-runtime-dir"], { encoding: "utf8" })
  const directory = printed.stdout?.trim() ?? ""
  return ["libclang_rt.fuzzer-x86_64.a", "libclang_rt.fuzzer.a"].some((name) =>
    existsSync(join(directory, name)),
  )
}

const guest = ["demo", "test", "bench"]
const native = ["fuzz-native"]

/** @type {{ package: string, why: string, targets?: string[], present: () => boolean }[]} */
const needs = [
  { package: "g++", why: "compiles the native addon", present: () => has("g++") && has("cc") },
  { package: "make", why: "builds the native addon", present: () => has("make") || has("ninja") },
  { package: "cmake", why: "builds the native addon", present: () => has("cmake") },
  { package: "libuv1-dev", why: "a header for the native addon", present: hasLibuvHeader },
  {
    package: "qemu-system-x86",
    why: "the lab: KVM in software",
    targets: guest,
    present: () => has("qemu-system-x86_64"),
  },
  { package: "busybox-static", why: "the userland of guests", targets: guest, present: () => has("busybox") },
  {
    package: "e2fsprogs",
    why: "makes disk images",
    targets: guest,
    present: () => has("mke2fs") && has("e2fsck"),
  },
  {
    package: "qemu-utils",
    why: "judges qcow2 images",
    targets: ["test"],
    present: () => has("qemu-img") && has("qemu-io"),
  },
  { package: "acpica-tools", why: "checks ACPI tables", targets: ["test"], present: () => has("iasl") },
  {
    package: "pciutils",
    why: "guests list their PCI devices",
    targets: ["test"],
    present: () => has("lspci"),
  },
  { package: "ioping", why: "guests read at random", targets: ["test"], present: () => has("ioping") },
  { package: "passt", why: "networks without privilege", targets: guest, present: () => has("passt") },
  { package: "iproute2", why: "makes TAP interfaces", targets: ["test"], present: () => has("ip") },
  { package: "tcpdump", why: "reads captures", targets: ["test"], present: () => has("tcpdump") },
  { package: "tshark", why: "reads captures", targets: ["test"], present: () => has("tshark") },
  { package: "clang", why: "builds with libFuzzer", targets: native, present: () => has("clang++") },
  { package: "libclang-rt-dev", why: "libFuzzer and sanitizers", targets: native, present: hasLibFuzzer },
  { package: "cpio", why: "checks the initramfs writer", targets: ["test"], present: () => has("cpio") },
]

/** @param {string} program */
function has(program) {
  return findProgram(program) !== undefined
}

/**
 * Installs what is missing for `target`.
 *
 * @param {string} target
 * @param {string} root
 * @throws {UserMustAct} without root or apt-get, with the commands to run
 */
export async function debianPackages(target, root) {
  const missing = needs.filter((need) => (need.targets ?? [target]).includes(target) && !need.present())
  if (missing.length === 0) return
  const names = missing.map((need) => need.package)
  if (!has("apt-get")) {
    const list = missing.map((need) => `  ${need.package.padEnd(18)}${need.why}`).join("\n")
    throw new UserMustAct(
      `these programs are missing (named as Debian packages them), and there is no apt-get to install them with:\n${list}`,
    )
  }
  const install = `apt-get install -y --no-install-recommends ${names.join(" ")}`
  if (process.getuid?.() !== 0) {
    const list = missing.map((need) => `  ${need.package.padEnd(18)}${need.why}`).join("\n")
    throw new UserMustAct(
      `these Debian packages are missing:\n${list}\nRun, and then try again:\n  sudo apt-get update\n  sudo ${install}`,
    )
  }
  for (const need of missing) say(`installing the Debian package ${need.package}: ${need.why}`)
  const lock = ["-q", "-o", "DPkg::Lock::Timeout=600"]
  await run("apt-get", [...lock, "update"], root)
  await run("apt-get", [...lock, "install", "-y", "--no-install-recommends", ...names], root)
  const still = missing.filter((need) => !need.present()).map((need) => need.package)
  if (still.length > 0) throw new Error(`apt-get installed ${still.join(", ")}, but it is not there`)
}
