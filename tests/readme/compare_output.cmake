# Runs a program and compares what it prints with what the README shows, numbers of the machine aside.
execute_process(COMMAND "${program}" OUTPUT_VARIABLE printed ERROR_VARIABLE complaints RESULT_VARIABLE result)
file(READ "${expected}" wanted)
foreach(text printed wanted)
  string(REGEX REPLACE "[0-9]+(\\.[0-9]+)? (MiB|KiB) were" "<amount> were" ${text} "${${text}}")
endforeach()
if(NOT result EQUAL 0 OR NOT printed STREQUAL wanted)
  message(FATAL_ERROR "exit code ${result}\n--- printed\n${printed}--- README says\n${wanted}--- stderr\n${complaints}")
endif()
