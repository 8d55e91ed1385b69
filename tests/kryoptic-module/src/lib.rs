//! Exports Kryoptic's entry points as a loadable PKCS#11 module.
