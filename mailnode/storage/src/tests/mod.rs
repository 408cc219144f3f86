//! Tests of the store as a whole. Most run without threads on a disk in memory, so that one seed is one
//! history.

mod basics;
mod crash;
mod damage;
mod heads;
mod healing;
mod house;
mod parts;
mod threads;
mod world;
