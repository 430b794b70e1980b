/* wine 8 has no bcryptprimitives.dll: its one function that Rust's standard
 * library calls, over the older name of the same generator. */
unsigned char __stdcall SystemFunction036(void *buffer, unsigned long length);
__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *buffer, unsigned long long length) {
    return SystemFunction036(buffer, (unsigned long)length);
}
