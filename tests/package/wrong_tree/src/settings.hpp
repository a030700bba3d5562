#if defined(_WIN32)
#endif
#ifdef __linux__
#endif
