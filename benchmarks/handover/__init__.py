"""Every tool that a scheme is handed over to, run with what it is handed, and asked which layers it quantized."""
