//! What a new version of a model costs who has the old one: the share that the layout keeps, and the bytes
//! that leave origin and peers when real agents pull it.

mod agents;
mod layout;
