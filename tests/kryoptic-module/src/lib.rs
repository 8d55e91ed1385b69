//! Exports Kryoptic's entry points as a loadable PKCS#11 module.
//!
//! Kryoptic is published as a Rust library only. A caller loads a module by path and asks
//! for `C_GetFunctionList` (PKCS#11 v2.40) or `C_GetInterface` (v3.0); everything else is
//! reached through the tables these hand out. Configuration comes from the file that
//! `KRYOPTIC_CONF` names.

#![allow(unsafe_code)] // a module's entry points are looked up by their C names

use kryoptic_lib::fns::general;
use kryoptic_lib::pkcs11::{
    CK_FLAGS, CK_FUNCTION_LIST_PTR_PTR, CK_INTERFACE_PTR, CK_INTERFACE_PTR_PTR, CK_RV, CK_ULONG_PTR, CK_UTF8CHAR_PTR,
    CK_VERSION_PTR,
};

/// PKCS#11 v3.1, section 5.4.4.
// SAFETY: the name is PKCS#11's own; nothing else in this library defines it.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    general::fn_get_function_list(list)
}

/// PKCS#11 v3.1, section 5.4.5.
// SAFETY: the name is PKCS#11's own; nothing else in this library defines it.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterfaceList(interfaces: CK_INTERFACE_PTR, count: CK_ULONG_PTR) -> CK_RV {
    general::fn_get_interface_list(interfaces, count)
}

/// PKCS#11 v3.1, section 5.4.6.
// SAFETY: the name is PKCS#11's own; nothing else in this library defines it.
#[unsafe(no_mangle)]
pub extern "C" fn C_GetInterface(
    name: CK_UTF8CHAR_PTR,
    version: CK_VERSION_PTR,
    interface: CK_INTERFACE_PTR_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    general::fn_get_interface(name, version, interface, flags)
}
