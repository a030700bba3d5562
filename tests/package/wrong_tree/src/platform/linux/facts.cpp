#ifdef __linux__  // allowed here
#endif
