extern "C" int plugin_function(int x) { return FACTOR * x; }
extern "C" int plugin_main() {
  static int called = 0;
  return FACTOR * ++called;
}
