//! Rule sets, programs and traces → what people ask of them: status, explanations, audits. Pure.

pub mod audit;
pub mod explain;
pub mod status;
pub mod trace;
