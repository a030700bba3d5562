extern "C" int plugin_function(int x) { return FACTOR * x; }
