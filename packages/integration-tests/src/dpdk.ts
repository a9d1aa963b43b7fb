import { cpus } from "node:os"
import { join } from "node:path"
import { findPackages } from "@virtkit/lab"

const LIBRARIES = "usr/lib/x86_64-linux-gnu"
/** Where the version of DPDK that Debian 12 has keeps its drivers. */
const DRIVERS = `${LIBRARIES}/dpdk/pmds-23.0`

/** dpdk-testpmd, the driver of virtio and the memory pool, and all that they are linked with beyond a base system. */
const PACKAGES =
  "dpdk-dev librte-net-virtio23 librte-mempool-ring23 ibverbs-providers libbsd0 libelf1 libfdt1 libibverbs1 libjansson4 libmd0 libnl-route-3-200 libnuma1 libpcap0.8 librte-bitratestats23 librte-bpf23 librte-bus-auxiliary23 librte-bus-dpaa23 librte-bus-pci23 librte-bus-vdev23 librte-cmdline23 librte-common-dpaax23 librte-common-iavf23 librte-common-mlx5-23 librte-crypto-scheduler23 librte-cryptodev23 librte-eal23 librte-ethdev23 librte-eventdev23 librte-gro23 librte-gso23 librte-hash23 librte-ip-frag23 librte-kvargs23 librte-latencystats23 librte-mbuf23 librte-mempool-dpaa23 librte-mempool23 librte-meter23 librte-metrics23 librte-net-bnxt23 librte-net-bond23 librte-net-dpaa23 librte-net-i40e23 librte-net-ice23 librte-net-ixgbe23 librte-net-mlx5-23 librte-net23 librte-pcapng23 librte-pci23 librte-pdump23 librte-rcu23 librte-reorder23 librte-ring23 librte-sched23 librte-security23 librte-telemetry23 librte-timer23".split(
    " ",
  )

/** How to run DPDK's test program with its virtio driver over vhost-user ("virtio-user"). */
export interface TestPmd {
  readonly command: string
  readonly args: readonly string[]
  readonly env: NodeJS.ProcessEnv
}

/** `device`: what follows the path in the device's arguments, such as "mrg_rxbuf=0". It forwards what it receives. */
export async function testPmd(socket: string, device: string): Promise<TestPmd> {
  const root = await findPackages(PACKAGES)
  const libraries = [LIBRARIES, DRIVERS].map((path) => join(root, path))
  const last = cpus().length - 1
  const environment = ["--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--no-shconf"]
  const eal = [...environment, `--lcores=(0,1)@(0-${last})`]
  const vdev = `net_virtio_user0,path=${socket},queues=1,queue_size=256,${device}`
  return {
    command: join(root, "usr/bin/dpdk-testpmd"),
    args: [
      ...eal,
      "--vdev",
      vdev,
      "--",
      "-i",
      "--no-flush-rx",
      "--auto-start",
      "--forward-mode=io",
      "--total-num-mbufs=4096",
    ],
    // Not by -d, which refuses folders below one that anybody may write to.
    env: {
      ...process.env,
      LD_LIBRARY_PATH: libraries.join(":"),
      LD_PRELOAD: "librte_net_virtio.so.23 librte_mempool_ring.so.23",
    },
  }
}
