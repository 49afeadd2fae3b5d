//! Writes the assembly of the trampolines: one for each C function that calls libtorch.
//!
//! A trampoline has the function's name and jumps through a table. The table is empty until
//! `libdiptych_torch.so` is open. A call through an empty entry opens the library first and is then
//! repeated. The registers of the arguments are saved meanwhile, so a trampoline does not need to
//! know the function's arguments.

use std::collections::BTreeSet;
use std::path::Path;

/// Saves the argument registers of the C calling convention, opens the library and repeats the
/// call.
const X86_64: &str = "\
.macro trampoline name entry
\\name:
    .cfi_startproc
    movq diptych_trampoline_table+8*\\entry(%rip), %r11
    testq %r11, %r11
    je 1f
    jmpq *%r11
1:  leaq \\name(%rip), %r11
    jmp diptych_open_first
    .cfi_endproc
.endm

diptych_open_first:
    .cfi_startproc
    pushq %rbp
    .cfi_def_cfa_offset 16
    .cfi_offset %rbp, -16
    movq %rsp, %rbp
    .cfi_def_cfa_register %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    pushq %r11
    subq $128, %rsp
    movups %xmm0, (%rsp)
    movups %xmm1, 16(%rsp)
    movups %xmm2, 32(%rsp)
    movups %xmm3, 48(%rsp)
    movups %xmm4, 64(%rsp)
    movups %xmm5, 80(%rsp)
    movups %xmm6, 96(%rsp)
    movups %xmm7, 112(%rsp)
    call diptych_open_libtorch_or_exit
    movups (%rsp), %xmm0
    movups 16(%rsp), %xmm1
    movups 32(%rsp), %xmm2
    movups 48(%rsp), %xmm3
    movups 64(%rsp), %xmm4
    movups 80(%rsp), %xmm5
    movups 96(%rsp), %xmm6
    movups 112(%rsp), %xmm7
    addq $128, %rsp
    popq %r11
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    .cfi_def_cfa %rsp, 8
    jmpq *%r11
    .cfi_endproc
";

const AARCH64: &str = "\
.macro trampoline name entry
\\name:
    .cfi_startproc
    adrp x16, diptych_trampoline_table+8*\\entry
    add x16, x16, :lo12:diptych_trampoline_table+8*\\entry
    ldar x16, [x16]
    cbz x16, 1f
    br x16
1:  adrp x16, \\name
    add x16, x16, :lo12:\\name
    b diptych_open_first
    .cfi_endproc
.endm

diptych_open_first:
    .cfi_startproc
    stp x29, x30, [sp, #-224]!
    .cfi_def_cfa_offset 224
    .cfi_offset x29, -224
    .cfi_offset x30, -216
    mov x29, sp
    stp x0, x1, [sp, #16]
    stp x2, x3, [sp, #32]
    stp x4, x5, [sp, #48]
    stp x6, x7, [sp, #64]
    stp x8, x16, [sp, #80]
    stp q0, q1, [sp, #96]
    stp q2, q3, [sp, #128]
    stp q4, q5, [sp, #160]
    stp q6, q7, [sp, #192]
    bl diptych_open_libtorch_or_exit
    ldp x0, x1, [sp, #16]
    ldp x2, x3, [sp, #32]
    ldp x4, x5, [sp, #48]
    ldp x6, x7, [sp, #64]
    ldp x8, x16, [sp, #80]
    ldp q0, q1, [sp, #96]
    ldp q2, q3, [sp, #128]
    ldp q4, q5, [sp, #160]
    ldp q6, q7, [sp, #192]
    ldp x29, x30, [sp], #224
    .cfi_restore x29
    .cfi_restore x30
    .cfi_def_cfa_offset 0
    br x16
    .cfi_endproc
";

/// Returns the assembly for an architecture, under cargo's name for it.
///
/// It also defines the symbols that `src/device/shim/library.rs` reads: the table, its length, the
/// interface that a library must have, and the library's path. The path has a section of its own so
/// that an installation can replace it.
pub(crate) fn assembly(
    architecture: &str,
    functions: &BTreeSet<String>,
    interface: &str,
    library: &Path,
) -> String {
    let code = match architecture {
        "x86_64" => X86_64,
        "aarch64" => AARCH64,
        other => {
            panic!("no trampolines exist for {other}; write them in trainer/build/trampolines.rs")
        }
    };
    let library = library.to_str().filter(|path| !path.contains(['"', '\\', '\n']));
    let library = library.unwrap_or_else(|| {
        panic!(
            "the path of the build folder contains a quote, backslash or line break; use another \
             folder"
        )
    });
    let entries: Vec<String> = functions
        .iter()
        .enumerate()
        .map(|(entry, name)| {
            format!(
                "    .globl {name}\n    .hidden {name}\n    .type {name}, %function\n    \
                 trampoline {name} {entry}\n"
            )
        })
        .collect();
    let entries = entries.concat();
    let data = |name: &str| format!("    .globl {name}\n    .hidden {name}\n{name}:");
    format!(
        "    .text\n    .p2align 4\n{code}\n{entries}\n    .bss\n    .p2align 3\n{table}\n    \
         .zero {size}\n\n    .section .rodata\n    .p2align 3\n{count}\n    .quad \
         {number}\n{expected}\n    .asciz \"{interface}\"\n\n    .section \
         .diptych_torch,\"a\",%progbits\n{path}\n    .asciz \"{library}\"\n\n    .section \
         .note.GNU-stack,\"\",%progbits\n",
        table = data("diptych_trampoline_table"),
        size = 8 * functions.len(),
        count = data("diptych_trampoline_count"),
        number = functions.len(),
        expected = data("diptych_trampoline_interface"),
        path = data("diptych_trampoline_library"),
    )
}
