import { findFile, type Share } from "@virtkit/lab"
import { NET_TOOLS } from "./net-tools-path.js"

const LIBRARIES = "/usr/lib/x86_64-linux-gnu"

/** Debian's ping, iperf3 and ethtool, and the libraries beyond libc that they need, by their names in {@link NET_TOOLS}. */
const FILES: readonly [name: string, packageName: string, path: string][] = [
  ["ping", "iputils-ping", "/bin/ping"],
  ["libcap.so.2", "libcap2", `/lib/x86_64-linux-gnu/libcap.so.2.66`],
  ["libidn2.so.0", "libidn2-0", `${LIBRARIES}/libidn2.so.0.3.8`],
  ["libunistring.so.2", "libunistring2", `${LIBRARIES}/libunistring.so.2.2.0`],
  ["ethtool", "ethtool", "/sbin/ethtool"],
  ["libmnl.so.0", "libmnl0", `${LIBRARIES}/libmnl.so.0.2.0`],
  ["iperf3", "iperf3", "/usr/bin/iperf3"],
  ["libiperf.so.0", "libiperf0", `${LIBRARIES}/libiperf.so.0.0.0`],
  ["libsctp.so.1", "libsctp1", `${LIBRARIES}/libsctp.so.1.0.19`],
  ["libcrypto.so.3", "libssl3", `${LIBRARIES}/libcrypto.so.3`],
]

/** For `shares` of a lab and `files` of guests. What the host has not installed is downloaded, as `findFile` does. */
export async function netTools(): Promise<Share[]> {
  const shares: Share[] = []
  for (const [name, packageName, path] of FILES) {
    shares.push({ source: await findFile({ package: packageName, path }), target: `${NET_TOOLS}/${name}` })
  }
  return shares
}
