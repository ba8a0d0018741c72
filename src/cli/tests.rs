use super::*;
use clap::CommandFactory;
