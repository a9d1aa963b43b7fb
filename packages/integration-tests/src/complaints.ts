/**
 * What the kernel of a guest in the lab says though nothing is wrong: before it reads the ACPI tables it has no PCI, and an
 * emulated processor may have waited for a real one. A regular expression, of grep -E as well.
 */
export const EXPECTED_COMPLAINTS = "No config space access function|hrtimer: interrupt took"
