//! The API from outside: through `kube::Client` in the same process and over TLS, with kubectl, and under attack.

#[cfg(test)]
mod approvers;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod client_cas;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod exhaustion;
#[cfg(test)]
mod front;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod in_process;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod kubectl;
#[cfg(test)]
mod network;
#[cfg(test)]
mod support;
