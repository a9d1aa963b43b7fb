export type { PciHost, PciMapping, PciMsi } from "./host.js"
