// Runs in the lab: the frequency of the TSC that KVM gives to guests, and what the lab's kernel said about its own.
import { execFileSync } from "node:child_process"
import { Kvm } from "@virtkit/kvm"

const kvm = Kvm.open()
const vm = kvm.createVm()
const guestKhz = vm.getTscKhz()
vm.close()
kvm.close()
const dmesg = execFileSync("dmesg", { encoding: "utf8" })
const measured = [...dmesg.matchAll(/tsc: (?:Detected|Refined TSC .*:) ([\d.]+) MHz/g)]
const hostKhz = Number(measured.at(-1)?.[1]) * 1000
process.stdout.write(JSON.stringify({ guestKhz, hostKhz }))
