export {
  type InjectOptions,
  NetSwitch,
  netSwitch,
  type SwitchCounters,
  type SwitchFilter,
  type SwitchFrame,
} from "./backends/switch.js"
export type { HeldFrame } from "./backends/switch-interceptor.js"
export type { SwitchPortOptions } from "./backends/switch-port.js"
