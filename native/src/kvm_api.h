// The KVM API of the kernel headers, and the few newer constants that the oldest supported headers (Linux 6.1) lack.
#pragma once

#include <linux/stddef.h>
#include <linux/types.h>

// In headers before Linux 6.6 a flexible array is preceded by an empty struct, which has a size in C++: structures, and
// with them the ioctl numbers that contain their sizes, come out wrong. This is the newer headers' definition for C++.
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(T, member) T member[0]

#include <linux/kvm.h>

#include <cstddef>

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39  // Linux 6.8
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232  // Linux 6.8
#endif
#ifndef KVM_CAP_X86_APIC_BUS_CYCLES_NS
#define KVM_CAP_X86_APIC_BUS_CYCLES_NS 237  // Linux 6.11
#endif

// What the TypeScript layout tables and the exit slot rely on.
static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_irq_routing) == 8 && sizeof(kvm_coalesced_mmio_ring) == 8 && sizeof(kvm_xsave) == 4096);
static_assert(sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312);
static_assert(sizeof(kvm_sregs2) == 320);
static_assert(sizeof(kvm_fpu) == 416);
static_assert(sizeof(kvm_vcpu_events) == 64);
static_assert(sizeof(kvm_irq_routing_entry) == 48);
static_assert(sizeof(kvm_cpuid_entry2) == 40);
static_assert(sizeof(kvm_msr_entry) == 16);
static_assert(sizeof(kvm_userspace_memory_region) == 32);
static_assert(sizeof(kvm_coalesced_mmio) == 24);
static_assert(sizeof(kvm_dirty_gfn) == 16);
static_assert(sizeof(kvm_run::padding) == 256);
static_assert(offsetof(kvm_run, hw) == 32, "the exit union starts at byte 32 of struct kvm_run");
