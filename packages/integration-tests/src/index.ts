export * as guest from "./guest-image.js"
export {
  collectGarbage,
  mappingCount,
  type Resources,
  residentBytes,
  resources,
} from "./resources.js"
