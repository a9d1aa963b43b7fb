export * from "./types/block.d.ts"
export * from "./types/events.d.ts"
export * from "./types/kvm.d.ts"
export * from "./types/memory.d.ts"
