import { execFileSync } from "node:child_process"
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { findTool } from "@virtkit/lab"
import { GUEST_SHELL } from "./guest-shell.js"

/** A guest's script that goes on on its first disk: an image of {@link makeRootDisk}. Needs the modules of {@link ROOT_MODULES}. */
export const ROOT_SCRIPT = `mount -t ext4 /dev/vda /mnt
exec switch_root /mnt /sbin/init
`

export const ROOT_MODULES: readonly string[] = ["ext4"]

const INIT = `#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
exec </dev/console >/dev/console 2>&1
${GUEST_SHELL}
sync
poweroff -f
`

/** Makes the image of an ext4 root file system: busybox, and a process 1 that is {@link GUEST_SHELL}. */
export function makeRootDisk(image: string, mebibytes: number): void {
  const tree = mkdtempSync(join(tmpdir(), "virtkit-root-"))
  try {
    for (const folder of ["bin", "sbin", "dev", "proc", "sys", "tmp", "data"]) mkdirSync(join(tree, folder))
    const busybox = findTool("busybox") ?? "busybox"
    copyFileSync(busybox, join(tree, "bin/busybox"))
    const applets = execFileSync(busybox, ["--list"], { encoding: "utf8" }).trim().split("\n")
    for (const applet of applets) if (applet !== "busybox") symlinkSync("busybox", join(tree, "bin", applet))
    writeFileSync(join(tree, "sbin/init"), INIT)
    chmodSync(join(tree, "sbin/init"), 0o755)
    // The tables are written here, not by the guest while it has other things to do.
    const lazy = "lazy_itable_init=0,lazy_journal_init=0"
    const options = ["-q", "-F", "-t", "ext4", "-E", lazy, "-d", tree]
    execFileSync(findTool("mke2fs") ?? "mke2fs", [...options, image, `${mebibytes}M`], { stdio: "ignore" })
  } finally {
    rmSync(tree, { recursive: true, force: true })
  }
}
