//! The whole proxy on a network in memory: every request goes through real listeners, pools, TLS and balancers.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "whole/access.rs"]
mod access;
#[path = "whole/admission.rs"]
mod admission;
#[path = "whole/balance.rs"]
mod balance;
#[path = "whole/common.rs"]
mod common;

#[path = "whole/floods.rs"]
mod floods;
#[path = "whole/gateway.rs"]
mod gateway;
#[path = "whole/http1.rs"]
mod http1;
#[path = "whole/leash.rs"]
mod leash;
#[path = "whole/mesh.rs"]
mod mesh;
#[path = "whole/otlp.rs"]
mod otlp;
#[path = "whole/resilience.rs"]
mod resilience;
#[path = "whole/retries.rs"]
mod retries;
#[path = "whole/review_attempts.rs"]
mod review_attempts;
#[path = "whole/review_pipeline.rs"]
mod review_pipeline;
#[path = "whole/smuggling.rs"]
mod smuggling;
#[path = "whole/smuggling_answers.rs"]
mod smuggling_answers;
#[path = "whole/smuggling_h2.rs"]
mod smuggling_h2;
#[path = "whole/tcp.rs"]
mod tcp;
#[path = "whole/telemetry.rs"]
mod telemetry;
#[path = "whole/transparent.rs"]
mod transparent;
