// The memory that a vCPU thread and JavaScript share, one slot a vCPU, and its protocol.
//
// `state` says whose slot it is. 0: the vCPU's; it runs or will run the guest. kPublished: the thread has filled in an
// exit and waits; JavaScript may write `data` and `payload`, and answers by exchanging `state` with 0. JavaScript sets
// kTaken when it has seen an exit that it will answer later. The thread sets kSleeping before it waits on the futex, so
// whoever stores 0 learns from the exchanged value that a wake is needed. All accesses to `state` are sequentially
// consistent; everything else in the slot is plain memory, ordered by them.
//
// The header's `sleeping` is 1 while JavaScript has gone back to its event loop. JavaScript stores 1 and then looks at
// all states once more; a thread stores its state and then looks at `sleeping`. Both are sequentially consistent, so at
// least one of the two sees the other, and no exit is left lying. Whoever turns `sleeping` from 1 to 0 makes the wake-up.
#pragma once

#include <cstddef>
#include <cstdint>

namespace virtkit {

enum SlotState : uint32_t { kPublished = 1, kTaken = 2, kSleeping = 4, kStopAsked = 8 };

enum SlotKind : uint32_t { kKindIo = 1, kKindMmio = 2, kKindExit = 3, kKindPaused = 4, kKindStopped = 5 };

constexpr size_t kSlotBytes = 1024;
constexpr size_t kPayloadBytes = 256;
constexpr size_t kReasonCounters = 56;

struct ExitSlot {
  uint32_t state;
  uint32_t kind;
  double address;  // port or guest physical address
  uint32_t size;   // 1, 2 or 4
  uint32_t write;
  uint8_t data[8];     // of the access, little-endian; JavaScript puts the value read here
  uint32_t reason;     // KVM_EXIT_*
  uint32_t error;      // errno of KVM_RUN, 0 if it succeeded
  uint32_t coalesced;  // the coalesced ring holds writes that came before this exit
  uint32_t flags;      // kvm_run.flags
  uint8_t reserved[16];
  uint8_t payload[kPayloadBytes];  // the exit union of kvm_run; copied back when JavaScript answers a kKindExit
  uint8_t reserved2[192];
  // Doubles, because JavaScript reads them without BigInt; each is written by the vCPU's thread alone.
  double runs;       // KVM_RUN returns
  double delivered;  // exits given to JavaScript (an access split in two is two)
  double native;     // accesses answered in this thread
  double sleeps;     // answers for which it slept
  double unused[4];
  double reasons[kReasonCounters];  // by exit reason, the last one takes all greater ones
};

struct HubHeader {
  uint32_t sleeping;
  uint8_t reserved[kSlotBytes - 4];
};

static_assert(sizeof(ExitSlot) == kSlotBytes && sizeof(HubHeader) == kSlotBytes);
static_assert(offsetof(ExitSlot, address) == 8 && offsetof(ExitSlot, data) == 24 && offsetof(ExitSlot, reason) == 32);
static_assert(offsetof(ExitSlot, payload) == 64 && offsetof(ExitSlot, runs) == 512 && offsetof(ExitSlot, reasons) == 576);

}  // namespace virtkit
