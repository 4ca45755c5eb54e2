<?php
// WordPress caches what it has read of a theme's files for half an hour. An instance that is restored later than that
// after its checkpoint was made would read a hundred files for its first page. The files change only with the theme,
// and then WordPress reads them again anyway.
add_filter('wp_theme_files_cache_ttl', fn() => YEAR_IN_SECONDS);
