//! A volume's radix tree of pointers.
