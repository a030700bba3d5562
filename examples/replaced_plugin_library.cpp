// A plug-in with a fault: its third run writes where nothing is.

extern "C" int plugin_run() {
  static int runs = 0;
  if (++runs % 3 == 0) {
    volatile int* volatile nowhere = nullptr;
    *nowhere = runs;
  }
  return runs;
}
