export { type Aml, concat, nameString, pkgLength } from "./encoding.js"
export {
  buffer,
  device,
  eisaId,
  type FieldOptions,
  field,
  integer,
  method,
  name,
  type Operand,
  operationRegion,
  pack,
  scope,
  string,
  uuid,
} from "./objects.js"
export {
  type AddressSpace,
  dwordSpace,
  type InterruptOptions,
  interrupt,
  io,
  memory32Fixed,
  qwordSpace,
  resourceTemplate,
  wordSpace,
} from "./resources.js"
export * from "./statements.js"
