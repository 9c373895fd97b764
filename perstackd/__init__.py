"""perstackd: runs Perstack experts in warm, hardened Docker sandboxes."""
