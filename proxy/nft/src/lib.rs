//! skeg-nft
