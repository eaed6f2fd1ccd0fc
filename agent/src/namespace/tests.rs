//! The namespace over real directories: paging, what is remembered, what an opened file is part of.
