export { Bus, type BusClaim, type BusOptions } from "./bus.js"
